"""A shop: its files become tables, dbt makes models of them, an asset of our own reads one."""
