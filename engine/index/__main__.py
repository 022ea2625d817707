import sys

from engine.index.command import main

sys.exit(main())
