import sys

from export.commands import main

sys.exit(main())
