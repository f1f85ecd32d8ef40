"""Whether Ray is there, before anything needs it."""

from importlib.metadata import PackageNotFoundError, version

from treeserve.errors import ConfigError

LEAST_VERSION = (2, 60)


def require_ray() -> None:
    """Raise ConfigError, which says what to install, unless Ray Serve is there and new enough."""
    install = "pip install 'treeserve[ray]'"
    try:
        import ray.serve  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"ray: Ray Serve is not installed ({error}): {install}") from None
    try:
        found = version("ray")
    except PackageNotFoundError:
        return
    if tuple(int(part) for part in found.split(".")[:2]) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise ConfigError(f"ray: is {found}, and {least} or newer is needed: {install}")
