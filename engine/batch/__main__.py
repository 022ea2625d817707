import sys

from engine.batch.command import main

sys.exit(main())
