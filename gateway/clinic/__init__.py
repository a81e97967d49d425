"""The clinic's own data: patients, devices and their wearers, zones, rules and accounts, and how they are set up."""
