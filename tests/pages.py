"""Reads a report page without a browser: tags, attributes, texts and pictures."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

VOID = {"meta", "br", "link", "img", "input", "hr", "base"}
SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """Fails with an AssertionError at an end tag that does not match; `open` is empty at the end of a whole page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.styles = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.styles += data
        elif data.strip():
            self.texts.append(data.strip())


def pictures(html: str) -> list[ElementTree.Element]:
    """The SVG elements of a page, each read as XML."""
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def text_places(svg: ElementTree.Element) -> list[tuple[str, float, float]]:
    """Each text that begins at its place, with its left end and its baseline in SVG pixels."""
    found = [text for text in svg.iter(f"{SVG}text") if "text-anchor: start" in text.get("style", "")]
    return [(text.text or "", float(text.get("x", "nan")), float(text.get("y", "nan"))) for text in found]


def titled_boxes(svg: ElementTree.Element) -> dict[str, list[tuple[float, float, float, float]]]:
    """By title, the boxes that carry it, as left, top, width and height in SVG pixels."""
    boxes: dict[str, list[tuple[float, float, float, float]]] = {}
    for group in svg.iter(f"{SVG}g"):
        title, path = group.find(f"{SVG}title"), group.find(f"{SVG}path")
        if title is None or path is None:
            continue
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.get("d", ""))]
        xs, ys = numbers[::2], numbers[1::2]
        boxes.setdefault(title.text or "", []).append((min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)))
    return boxes
