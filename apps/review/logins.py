"""The name that a login gives."""

from collections.abc import Mapping

from anodetect.errors import ConfigError


def name_of(claims: Mapping[str, object]) -> str:
    """Return the reviewer's name from what an OpenID provider says of somebody: the address of
    their e-mail, or else their name.

    Raises ConfigError where the provider says that it has not checked the address, which anybody
    could then have given, and where it gives neither.
    """
    address = str(claims.get("email") or "").strip()
    if address and claims.get("email_verified") in (False, "false"):
        raise ConfigError(
            f"the login says that {address} is not verified: confirm it there, and log in again"
        )
    name = address or str(claims.get("name") or "").strip()
    if not name:
        raise ConfigError(
            "the login gives neither an e-mail address nor a name; ask for the scope "
            "`email` in its configuration"
        )
    return name
