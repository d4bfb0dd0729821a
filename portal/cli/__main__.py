from portal.cli.main import main

main()
