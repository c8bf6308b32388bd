"""From settings to what decides about the content of requests."""

from contextlib import AsyncExitStack
from functools import partial

from services.common.file_watch import FileWatch, Tell
from services.common.operator_file import OperatorFileError
from services.common.settings import SettingsError
from services.gateway import privacy
from services.gateway.content import Content
from services.gateway.guard import GuardSettings
from services.gateway.privacy import Action, Policy, Rules
from services.gateway.redaction_settings import RedactionSettings
from services.gateway.urls import URLRules


def open_content(settings: RedactionSettings, stack: AsyncExitStack, tell: Tell) -> Content:
    """Return what decides about content; the stack stops what follows the policy's file.

    Raises:
        SettingsError: the file is no policy; the message names the variable.
    """
    content = Content(
        redact=settings.pii_redact,
        guard=GuardSettings(
            max_messages=settings.request_max_messages,
            max_tools=settings.request_max_tools,
            max_depth=settings.request_max_depth,
            controls=settings.request_controls,
            references=URLRules(
                settings.request_url_allow,
                settings.request_url_deny,
                settings.request_private_urls,
            ),
        ),
    )
    default = Action(settings.pii_action)
    chosen = privacy.actions(default, settings.pii_actions)
    finder = privacy.finder(settings.pii_phone_regions)
    blocked = privacy.blocked(settings.file_actions)
    content.adopt(Policy(Rules(chosen, (), finder, settings.pii_max_checks, blocked)))
    if settings.content_policy_file is None:
        return content
    parse = partial(
        privacy.parse,
        default=default,
        types=settings.pii_actions,
        regions=settings.pii_phone_regions,
        checks=settings.pii_max_checks,
        files=settings.file_actions,
        must_redact=settings.production,
    )
    watch = FileWatch(settings.content_policy_file, parse, content.adopt, tell)
    try:
        content.adopt(watch.first())
    except OperatorFileError as error:
        msg = f"WEAVER_CONTENT_POLICY_FILE: {error}"
        raise SettingsError(msg) from None
    watch.start()
    stack.push_async_callback(watch.close)
    return content
