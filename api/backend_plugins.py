"""
Finds the key backend that ``KEY_BACKEND`` names, by its entry point.

An installed package can run code in this process anyway, but it must not become the
signer by being there.  So only the plugin that the configuration names is loaded, our
own names always lead to our own plugins, and a name that two packages claim is refused.
"""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, EntryPoints, distribution, entry_points

from signer.errors import ConfigurationError, Refusal
from signer.ports import BackendConfig, BackendPlugin, KeyDirectory
from signer.ports.backend_plugin import GROUP


CODE = "backend-misconfigured"


def load_plugin(name: str) -> BackendPlugin:
    """
    Return the plugin *name*.

    Raises:
        ConfigurationError: ``backend-misconfigured``: no installed package has such a
            plugin, several have one, or it cannot be loaded.
    """
    with _refusing_errors(name):
        plugin: BackendPlugin = _find(name).load()
        if plugin.name != name:
            raise _refused(f"the entry point {name} leads to a plugin of another name")
        _require_members(plugin, BackendPlugin, f"the plugin {name}")
        return plugin


def open_plugin(plugin: BackendPlugin, config: BackendConfig) -> KeyDirectory:
    """
    Return the backend of *plugin*; no request is sent yet.

    Raises:
        ConfigurationError: It cannot be opened.
    """
    with _refusing_errors(plugin.name):
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
    with _refusing_errors(plugin.name):
        refusals = [*plugin.refusals(config)]
        forbidden = plugin.production_refusal(config)
        if forbidden is not None and config.settings.is_production:
            refusals.append(forbidden)
        if refusals:
            raise ConfigurationError(*refusals)
        return forbidden


def _find(name: str) -> EntryPoint:
    own = distribution("hotwallet").entry_points.select(group=GROUP)
    if not own.names:  # A checkout was updated, and its metadata was not.
        raise _refused("hotwallet was installed incompletely: install it again")
    if name in own.names:
        return own[name]
    found = entry_points(group=GROUP)
    if name not in found.names:
        raise _refused(f"KEY_BACKEND is none of {', '.join(_names(own, found))}")
    claims = {each.value for each in found.select(name=name)}
    owners = {each.dist.name for each in found.select(name=name) if each.dist}
    if len(claims) > 1 or len(owners) > 1:
        raise _refused(
            f"several packages have a key backend {name} ({', '.join(sorted(owners))});"
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
def _refusing_errors(name: str) -> Iterator[None]:
    """Raise ``backend-misconfigured`` for any error of a plugin, without its words."""
    try:
        yield
    except ConfigurationError:
        raise
    except ModuleNotFoundError as e:
        problem = f"KEY_BACKEND={name} needs the package {e.name}, which is missing"
    except Exception as e:  # noqa: BLE001  A plugin's error may contain a secret.
        problem = (
            f"the plugin of KEY_BACKEND={name} failed"
            f" ({type(e).__name__}{_location(e)})"
        )
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
