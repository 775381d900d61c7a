"""
Loads what a package adds and a setting names, by its entry point: backends and extras.

An installed package can run code in this process anyway, but it must not become part of
the signer by being there.  So only what the configuration names is loaded, our own
names always lead to our own plugins, and a name that two packages claim is refused.
"""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, EntryPoints, distribution, entry_points
from typing import TypeVar

from signer.errors import ConfigurationError, Refusal
from signer.ports.backend_plugin import GROUP, BackendConfig, BackendPlugin
from signer.ports.key_backend import KeyDirectory


CODE = "backend-misconfigured"

Found = TypeVar("Found")


def load_plugin(name: str) -> BackendPlugin:
    """
    Return the plugin *name*.

    Raises:
        ConfigurationError: ``backend-misconfigured``: no installed package has such a
            plugin, several have one, or it cannot be loaded.
    """
    setting = f"KEY_BACKEND={name}"
    with _refusing_errors(setting):
        plugin: BackendPlugin = _find(GROUP, name, "KEY_BACKEND").load()
        if plugin.name != name:
            raise _refused(f"the entry point {name} leads to a plugin of another name")
        _require_members(plugin, BackendPlugin, f"the plugin {name}")
        return plugin


def load_extra(group: str, name: str, kind: type[Found]) -> Found:
    """Return the extra *name* of another package, of *kind*."""
    with _refusing_errors(f"HOTWALLET_EXTRAS={name}"):
        extra = _find(group, name, "HOTWALLET_EXTRAS").load()
        if not isinstance(extra, kind) or getattr(extra, "name", None) != name:
            raise _refused(f"the entry point {name} leads to no extra of this name")
        return extra


def open_plugin(plugin: BackendPlugin, config: BackendConfig) -> KeyDirectory:
    """Return the backend of *plugin*; no request is sent yet."""
    with _refusing_errors(f"KEY_BACKEND={plugin.name}"):
        backend = plugin.open(config)
        if backend.name != plugin.name:
            raise _refused(
                f"the plugin {plugin.name} opened a backend of another name; the key"
                " ring could not find its keys"
            )
        _require_members(backend, KeyDirectory, f"the backend {plugin.name}")
        return backend


def check_plugin(plugin: BackendPlugin, config: BackendConfig) -> Refusal | None:
    """
    Check the plugin's settings; return why production would refuse them, or None.

    Raises:
        ConfigurationError: The settings are unusable, or this is production, which
            refuses them.
    """
    with _refusing_errors(f"KEY_BACKEND={plugin.name}"):
        refusals = [*plugin.refusals(config)]
        forbidden = plugin.production_refusal(config)
        if forbidden is not None and config.settings.is_production:
            refusals.append(forbidden)
        if refusals:
            raise ConfigurationError(*refusals)
        return forbidden


def _find(group: str, name: str, setting: str) -> EntryPoint:
    own = distribution("hotwallet").entry_points.select(group=group)
    if group == GROUP and not own.names:
        # A checkout was updated, and its metadata was not.
        raise _refused("hotwallet was installed incompletely: install it again")
    if name in own.names:
        return own[name]
    found = entry_points(group=group)
    if name not in found.names:
        raise _refused(f"{setting} is none of {', '.join(_names(own, found))}")
    claims = {each.value for each in found.select(name=name)}
    owners = {each.dist.name for each in found.select(name=name) if each.dist}
    if len(claims) > 1 or len(owners) > 1:
        raise _refused(
            f"several packages have {setting}={name} ({', '.join(sorted(owners))});"
            " uninstall all but one"
        )
    return found[name]


def _names(*groups: EntryPoints) -> list[str]:
    return sorted({name for group in groups for name in group.names})


def _require_members(found: object, protocol: type, what: str) -> None:
    """Refuse an object without a member of *protocol*, which is read only later."""
    members = [name for name in dir(protocol) if not name.startswith("_")]
    missing = [name for name in members if not hasattr(found, name)]
    if missing:
        raise _refused(f"{what} has no {', '.join(missing)}")


@contextmanager
def _refusing_errors(setting: str) -> Iterator[None]:
    """Raise ``backend-misconfigured`` for any error of a plugin, without its words."""
    try:
        yield
    except ConfigurationError:
        raise
    except ModuleNotFoundError as e:
        problem = f"{setting} needs the package {e.name}, which is missing"
    except Exception as e:  # noqa: BLE001  A plugin's error may contain a secret.
        problem = f"the plugin of {setting} failed ({type(e).__name__}{_location(e)})"
    else:
        return
    raise _refused(problem)


def _location(error: Exception) -> str:
    """Return " in MODULE:LINE", the last line outside of this file and Python."""
    frames = [
        (frame.f_globals.get("__name__", "?"), line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    outside = [
        f" in {module}:{line}"
        for module, line in frames
        if module != __name__
        and module.partition(".")[0] not in sys.stdlib_module_names
    ]
    return outside[-1] if outside else ""


def _refused(message: str) -> ConfigurationError:
    return ConfigurationError(Refusal(CODE, message))
