"""Certificate and key, looked at before anything is started."""

import ssl

from build_engine.exit_codes import ExitCode
from nimble_coder.gateway.access.certificate import load_pair
from nimble_coder.settings.model import Settings
from nimble_coder.supervisor.files import check_lasting


class TlsError(ValueError):
    """Files that make no TLS; says which."""

    exit_code = ExitCode.TLS


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """The context of the HTTP port, None without TLS; raises `TlsError`."""
    if not settings.uses_tls or settings.tls_certificate is None or settings.tls_key is None:
        return None
    files = [settings.tls_certificate, settings.tls_key, settings.tls_client_ca]
    for file in filter(None, files):
        try:
            check_lasting(file)
            file.open("rb").close()
        except ValueError as error:
            raise TlsError(f"the TLS file {file} cannot be used: {error}") from None
        except OSError as error:
            raise TlsError(f"the TLS file {file} cannot be read: {error.strerror}; mount it, readable for us") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        load_pair(context, settings.tls_certificate, settings.tls_key)
    except ValueError as error:
        raise TlsError(str(error)) from None
    except OSError as error:
        raise TlsError(
            f"{settings.tls_certificate} and {settings.tls_key} are no certificate and its key in PEM ({error})"
        ) from None
    if settings.tls_client_ca:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except (ssl.SSLError, OSError) as error:
            raise TlsError(f"{settings.tls_client_ca} holds no certificates in PEM ({error})") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context
