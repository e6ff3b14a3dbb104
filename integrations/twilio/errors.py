"""Twilio's error codes, and what each of them asks us to do.

They come with a refused request, or later in a status callback. https://www.twilio.com/docs/api/errors
"""

from core.errors import Action

ACTIONS: dict[str, Action] = {
    "20003": "stop",  # authentication
    "20429": "retry",  # too many requests; not processed
    "21211": "permanent",  # no valid number
    "21610": "opt_out",
    "21614": "permanent",  # not a mobile number
    "21617": "split",  # more than 1,600 characters
    "21620": "text_only",  # media address
    "21655": "text_only",  # ContentSid
    "21656": "text_only",  # ContentVariables
    "63001": "stop",  # the channel's authentication
    "63002": "stop",  # no such sender
    "63003": "permanent",  # no such recipient
    "63005": "alert",  # content not accepted
    "63007": "stop",  # From is no channel of ours
    "63009": "retry",  # the channel's own error
    "63010": "retry",  # Twilio's own error
    "63012": "retry",  # the channel is away
    "63013": "alert",  # against the channel's policy
    "63014": "permanent",  # blocked by the person
    "63016": "template",  # outside the 24-hour window
    "63017": "retry",  # rate limits
    "63018": "retry",
    "63019": "text_only",  # media could not be fetched
    "63021": "alert",  # content invalid
    "63024": "permanent",  # no WhatsApp there
    "63026": "alert",
    "63027": "alert",  # the template does not exist
    "63028": "alert",  # ... has another number of parameters
    "63032": "alert",  # a limitation of WhatsApp's
    "63033": "permanent",  # blocked by the person
    "63034": "text_only",  # media
    "63037": "text_only",  # media too big
    "63038": "tomorrow",  # the account's messages of the day are used up
    "63040": "alert",  # the template was rejected
    "63041": "alert",  # ... or paused
}
HINTS = {
    "20003": "Check TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN.",
    "21610": "The person opted out.",
    "63007": "Check TWILIO_WHATSAPP_FROM.",
    "63016": "More than 24 hours since the person wrote: only an approved template may be sent (TWILIO_TEMPLATE_SID).",
    "63038": "Twilio takes no more messages today.",
}


def action_of(code: str, status: int = 0) -> Action:
    """What to do about a code; a code that nobody listed is somebody's to look at."""
    if status >= 500:
        return "retry"
    if found := ACTIONS.get(code):
        return found
    return "stop" if status == 401 else "retry" if status == 429 else "alert"
