"""``python -m async_delivery`` is the program ``async-delivery``."""

from async_delivery.cli import main

# Child processes that are spawned import this module again under another name.
if __name__ == "__main__":
    main()
