"""What an adapter gives away: attackers with base and adapter in hand try to get the passage back.

adapters.py     what the engine's operator holds: rows, for each method and each dial
attackers.py    they read the rows, or ask the base itself
run.py          every dial against every attacker, resumable, and how much they got
page.py         the report

The attackers know the base, the generator and how adapters are made; they never saw the passages. Each trains on adapters of
other passages that it made itself.
"""
