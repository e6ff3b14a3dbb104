"""The Cloud API's error codes, and what each of them asks us to do.

They come with a refused request, or later in a status. The codes of an app (0-299), of an account and of templates
(132000-132999) are ranges. https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes
"""

from core.errors import Action

ACTIONS: dict[str, Action] = {
    "0": "stop",  # authentication
    "1": "retry",  # unknown, perhaps theirs
    "2": "retry",  # the service is away
    "3": "stop",  # the app may not
    "4": "retry",  # the app's calls
    "10": "stop",  # permission
    "33": "stop",  # no such number of ours
    "100": "alert",  # a parameter
    "190": "stop",  # the token has expired
    "368": "stop",  # blocked for policy violations
    "80007": "retry",  # the account's rate
    "130429": "retry",  # messages a second
    "130472": "permanent",  # the person is in an experiment of Meta's
    "130497": "alert",  # not to people of this country
    "131000": "retry",
    "131005": "stop",  # access denied
    "131008": "alert",  # a parameter is missing
    "131009": "alert",  # ... or not valid
    "131016": "retry",  # the service is overloaded
    "131021": "permanent",  # to ourselves
    "131026": "permanent",  # no WhatsApp, or terms not accepted
    "131031": "stop",  # the account is locked
    "131042": "stop",  # payment
    "131045": "stop",  # the number is not registered well
    "131047": "template",  # outside the 24-hour window
    "131048": "tomorrow",  # too many of ours were called spam
    "131049": "permanent",  # to keep the ecosystem healthy: not again soon
    "131050": "permanent",  # the person wants no marketing
    "131051": "alert",  # a type that is not supported
    "131052": "text_only",  # media
    "131053": "text_only",
    "131056": "retry",  # too many to this person
    "131057": "retry",  # the account is being maintained
    "131062": "alert",  # not to a user id
    "131064": "retry",
    "133010": "stop",  # the number is not registered
    "133016": "retry",
}
PAIR_LIMIT = "131056"
HINTS = {
    "100": "Check META_PHONE_NUMBER_ID and META_GRAPH_VERSION.",
    "131026": "This person cannot be reached on WhatsApp.",
    "131047": "More than 24 hours since the person wrote: only an approved template may be sent (META_TEMPLATE_NAME).",
    "131048": "Too many people called our messages spam: look at the number's quality in WhatsApp Manager.",
    "190": "Check META_ACCESS_TOKEN: it has expired or was revoked.",
}


def action_of(code: str, status: int = 0) -> Action:
    """What to do about a code; a code that nobody listed is somebody's to look at."""
    if status >= 500:
        return "retry"
    if found := ACTIONS.get(code):
        return found
    if code.isdigit() and 200 <= int(code) < 300:
        return "stop"  # permissions
    return "stop" if status == 401 else "retry" if status == 429 else "alert"
