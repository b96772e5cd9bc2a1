"""YAML that is plain data: no tags that build objects, no aliases that make lines stand for gigabytes."""

from __future__ import annotations

from typing import Any

import yaml


def read_plain(text: str) -> Any:
    """Return what one YAML document says; raises yaml.YAMLError, ValueError or RecursionError."""
    return PlainLoader(text).get_single_data()


class PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses aliases (`*name`): settings have no use for them."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose one node; an alias raises a YAML error with its line."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            problem = "aliases (*name) are not read, write the value out"
            raise yaml.composer.ComposerError(None, None, problem, mark)
        return super().compose_node(parent, index)
