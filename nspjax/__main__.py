"""`python -m nspjax`: the command line."""

from nspjax.cli import main

if __name__ == "__main__":
    main()
