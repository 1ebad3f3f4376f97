"""Pages as tests look at them."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags, attributes and section titles of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.titles, self._in_title = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append(dict(attributes))
        self._in_title = tag == "h2"

    def handle_data(self, data):
        if self._in_title:
            self.titles.append(data)
        self._in_title = False
