"""The starter adapter: what the embedded base learns before its first day.

SmolLM2-135M-Instruct speaks poor Portuguese and overlooks what stands in its prompt. The starter adapter, version 1
of a context, teaches it skills rather than facts: say the right passage's sentence, follow a conversation, say
that it does not know and offer a person, be courteous. Shops, products and figures are drawn at random for every
example, so copying is the only way to be right.

    text/        what people ask and how it is answered: facts of a shop and of other trades, small talk, names (YAML,
                 ours, Portuguese and English)
    slots.py     fills a template's slots with names and figures
    corpus.py    thousands of dialogues from them, the same for the same seed
    families.py  families of questions about the same passages, which training reads as one tree
    courtesy.py  the safety and courtesy set that every night's gate asks (courtesy.yaml) and its score
    scoring.py   what makes an answer right, as functions of text alone
    evaluate.py  held-out figures of any adapter:  python -m learning.starter.evaluate --base FOLDER --adapter FOLDER
    __main__.py  training, by the night's own code: python -m learning.starter --base FOLDER --out FOLDER --seed 0
    adapter/     the result that is shipped, with its model card
"""
