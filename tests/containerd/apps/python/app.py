"""The smallest web application: it is here to be looked at, not to be used."""

from flask import Flask

app = Flask(__name__)


@app.route("/")
def index():
    return "hello\n"


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=8080)
