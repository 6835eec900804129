"""Commands that refuse an option given twice, where click would take the last value in silence."""

from collections import Counter

import click


class StrictGroup(click.Group):
    """A group whose commands take each option of one value once; those that may be repeated stay as they are."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command, as `click.Group`, and looks through what it is given."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and not ctx.resilient_parsing:
            _refuse_repeated(command, click.Context(command, ctx, name, **command.context_settings), rest)
        return name, command, rest


def _refuse_repeated(command: click.Command, context: click.Context, arguments: list[str]) -> None:
    try:
        _, _, order = command.make_parser(context).parse_args(args=list(arguments))
    except click.UsageError:  # the command says it itself
        return
    for option, times in Counter(x for x in order if isinstance(x, click.Option)).items():
        may_repeat = option.multiple or option.count or (option.is_flag and not option.secondary_opts)
        if times > 1 and not may_repeat:
            name = max(option.opts, key=len)
            raise click.UsageError(
                f"{name} must be given once. Received: it {times} times; keep one", context
            )
