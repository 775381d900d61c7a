"""The three ways to take an action of administrators."""

import secrets
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import Result

from api.actions.action import Action, FieldKind, Texts
from tests.api.administrators import authorized
from tests.api.commands import Finished, Run
from tests.extras.console.worlds import World


def _body(action: Action, texts: Texts) -> dict[str, Any]:
    values = action.values(texts)
    found = {each.json_name: values.get(each.name) for each in action.in_body}
    return {name: value for name, value in found.items() if value}


class Surfaces:
    """Takes actions in three ways, always as alice and with a new token."""

    def __init__(self, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._run = run
        self._folder = folder
        self._monkeypatch = monkeypatch

    def http(
        self,
        world: World,
        action: Action,
        texts: Texts,
        *,
        dry_run: bool = False,
        **claims: Any,
    ) -> int:
        options: dict[str, Any] = {"dry_run": dry_run, **claims}
        return self.answer(world, action, texts, **options).status_code

    def answer(
        self,
        world: World,
        action: Action,
        texts: Texts,
        *,
        dry_run: bool = False,
        **claims: Any,
    ) -> Result:
        body = _body(action, texts)
        given = {"scope": action.scope, "sub": "alice", "now": world.clock(), **claims}
        return world.client.simulate_post(
            action.path.format(**texts),
            json={**body, **({"dryRun": True} if dry_run else {})},
            headers=authorized(**given),
        )

    def command(
        self,
        world: World,
        action: Action,
        texts: Texts,
        *options: str,
        scope: str | None = None,
    ) -> Finished:
        for name in ("build_container", "build_admin_container"):
            self._monkeypatch.setattr(f"api.bootstrap.{name}", lambda: world.container)
        token = self._folder / f"token-{secrets.token_hex(4)}"
        token.write_text(world.token(action, scope=scope or action.scope))
        token.chmod(0o600)
        self._monkeypatch.setenv("OPERATOR_TOKEN_FILE", str(token))
        arguments = [texts[each.name] for each in action.fields if each.argument]
        for each in action.fields:
            option = each.option or f"--{each.name}"
            if not each.argument and texts[each.name]:
                arguments += [
                    option,
                    *([] if each.kind is FieldKind.FLAG else [texts[each.name]]),
                ]
        given = (*options, *(["--yes"] if action.asks else []))
        return self._run(
            *action.command.split(), *arguments, "--reason", texts["reason"], *given
        )

    def console(self, world: World, action: Action, texts: Texts) -> int:
        return world.make(action, texts).status_code
