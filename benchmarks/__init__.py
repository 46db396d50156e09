"""Scripts that regenerate every figure of speed or memory that the documentation claims."""

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages, as the command `cpc` asks torch for them
