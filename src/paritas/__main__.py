"""The command: what interrupts it is told in one line, while its modules are loaded too."""

from paritas.interrupts import guarded


def main() -> None:
    """Run the command line and exit the process."""
    guarded(_run)


def _run() -> None:
    from paritas.cli import main as run  # here, so that an interrupt while it is imported is told too

    run()


if __name__ == "__main__":
    main()
