"""Pages for people: the templates and the style that an index and the reports of commands share."""

from mambaport.pages.render import asset, render, render_alone

__all__ = ["asset", "render", "render_alone"]
