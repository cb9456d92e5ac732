"""``python -m mambaport``."""

from mambaport.cli import main

if __name__ == "__main__":
    main()
