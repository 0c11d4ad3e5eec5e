"""What may leave this machine, decided on the bytes themselves just before they are sent.

rules.py      one egress rule for each kind of request: checks method, path and body; and what they are compared with, made
              apart from the code that builds requests
protected.py  what must not leave, of the retrieved passages, less what the user's own words contain; and the texts and token
              ids that bytes may hide

The guard does not trust the code that builds requests: it shares nothing with it but the tokenizer, and what it compares with
is made from the user's messages and from prompts that were built before any document was read. It fails closed: without a rule,
or when a check raises, nothing is sent. It is there for faults of the program. A generator that was made to hide text in its
numbers can do so in ways that no look at the numbers finds.
"""
