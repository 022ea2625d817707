import sys

from engine.evaluate import command, sanity

chosen = sanity.main if sanity.SANITY in sys.argv[1:] else command.main
sys.exit(chosen(sys.argv[1:]))
