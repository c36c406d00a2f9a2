from detcheck.cli import main

main()
