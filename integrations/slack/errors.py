"""Slack's errors by name, and what each of them asks us to do about a message.

https://docs.slack.dev/reference/methods/chat.postMessage
"""

from core.errors import Action

ACTIONS: dict[str, Action] = {
    # The token: nothing can be said until somebody mends it.
    "access_denied": "stop",
    "account_inactive": "stop",
    "ekm_access_denied": "stop",
    "enterprise_is_restricted": "stop",
    "invalid_auth": "stop",
    "missing_scope": "stop",
    "no_permission": "stop",
    "not_allowed_token_type": "stop",
    "not_authed": "stop",
    "org_login_required": "stop",
    "team_access_not_granted": "stop",
    "token_expired": "stop",
    "token_revoked": "stop",
    # Theirs, and it may pass.
    "fatal_error": "retry",
    "internal_error": "retry",
    "ratelimited": "retry",
    "request_timeout": "retry",
    "service_unavailable": "retry",
    # The place is gone, or closed to us by those who are in it.
    "cannot_reply_to_message": "permanent",
    "channel_not_found": "permanent",
    "is_archived": "permanent",
    "messages_tab_disabled": "permanent",
    "message_not_found": "permanent",
    "thread_locked": "permanent",
    "user_not_found": "permanent",
    "msg_too_long": "split",
}
# Of these Slack says that part of the operation may have succeeded.
PERHAPS_DONE = frozenset({"internal_error", "fatal_error"})
HINTS = {
    "account_inactive": "The app was removed from this workspace: install it again.",
    "invalid_auth": "Check SLACK_BOT_TOKEN.",
    "not_in_channel": "Invite the bot into the channel.",
    "missing_scope": "Add the scope that docs/channels.md names for this, and install the app again.",
    "token_revoked": "Check SLACK_BOT_TOKEN, or install the app again.",
}


def action_of(reason: str, *, several: bool) -> Action:
    """What to do; an error that nobody listed is somebody's to look at.

    Args:
        several: there are more workspaces than one: the token of one must not stop the others.
    """
    action = ACTIONS.get(reason, "alert")
    return "alert" if action == "stop" and several else action
