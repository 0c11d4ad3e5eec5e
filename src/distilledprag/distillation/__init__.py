"""Training: generators are distilled, and the reader of a base is trained.

recipes.py             what `dprag train` reads          losses.py         the paper's three losses
generator_training.py  distils a generator               optimizers.py     AdamW, Muon, schedules
loop.py                its training loop                 packing.py        several questions behind one context
pair_data.py           its batches, of synthesized pairs teacher_cache.py  the teacher's outputs on disk
reader_training.py     reader and joint stage of a base  run_folder.py     log, checkpoint and recipe of a run
contexts.py            its examples, and how they vary   reader_batches.py their batches
"""
