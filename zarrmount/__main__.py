"""``python -m zarrmount``."""

from zarrmount.cli import main

if __name__ == "__main__":
    main()
