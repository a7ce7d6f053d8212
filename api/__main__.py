"""``python -m api``: the submission API. The decoding processes load this file too, so it loads nothing for them."""

if __name__ == "__main__":
    from api.server import serve
    from shared.startup import start

    start("api", serve)
