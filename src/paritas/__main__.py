from paritas.cli import main

main()
