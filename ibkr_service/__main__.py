"""`python -m ibkr_service`."""

from ibkr_service.cli import main

if __name__ == "__main__":
    main()
