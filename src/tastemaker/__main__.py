"""`python -m tastemaker`, and so `torchrun -m tastemaker train run.yaml`: the same as the command."""

from tastemaker.cli import main

if __name__ == "__main__":
    main()
