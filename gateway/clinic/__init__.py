"""Who is who: patients, devices and their wearers, zones, rules, accounts; and how they are set up."""
