"""An SMTP server with STARTTLS and passwords, by aiosmtpd: python3 smtp.py PORT CERT KEY FOLDER

It accepts the user `outcrop` with the password `correct`, refuses everything before STARTTLS and before the password, and writes each message
into FOLDER, as number.eml with the recipients in number.to.
"""

import pathlib
import ssl
import sys
import threading

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

port, cert, key, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3], pathlib.Path(sys.argv[4])


class Handler:
    count = 0

    async def handle_DATA(self, server, session, envelope):
        if any("refused" in to for to in envelope.rcpt_tos):
            return "554 5.6.0 the content is refused"
        name = f"{Handler.count:04}"
        Handler.count += 1
        (folder / f"{name}.to").write_text("\n".join([envelope.mail_from, *envelope.rcpt_tos]))
        (folder / f"{name}.partial").write_bytes(envelope.content)
        (folder / f"{name}.partial").rename(folder / f"{name}.eml")
        return "250 2.0.0 accepted"


def authenticate(server, session, envelope, mechanism, data):
    right = data.login == b"outcrop" and data.password == b"correct"
    return AuthResult(success=right, handled=False)


tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain(cert, key)
Controller(
    Handler(),
    hostname="127.0.0.1",
    port=port,
    tls_context=tls,
    require_starttls=True,
    auth_required=True,
    authenticator=authenticate,
).start()
threading.Event().wait()
