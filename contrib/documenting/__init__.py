"""What people read and what shells complete, made of the tables that --help is made of."""
