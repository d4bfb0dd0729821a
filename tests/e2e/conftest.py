"""One product and one browser for all stories; a screenshot of each step is kept in var/artefacts/e2e/."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.e2e.story import Story
from tests.support.product import ROOT, Product, chromium, new_context, running_product, sign_in

ARTEFACTS = Path(os.environ.get("CASEMENT_ARTEFACTS", ROOT / "var" / "artefacts" / "e2e"))


@pytest.fixture(scope="session")
def product() -> Iterator[Product]:
    """In a new folder; CASEMENT_E2E_HOME keeps one, so that whoever writes a story need not wait for the images."""
    folder = tempfile.TemporaryDirectory(prefix="casement-e2e-")
    with folder as new, running_product(Path(os.environ.get("CASEMENT_E2E_HOME", new))) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def stage(product: Product) -> Product:
    """Where the stories play. A module with a product of its own has a fixture of this name."""
    return product


@pytest.fixture
def page(browser: Browser, stage: Product) -> Iterator[Page]:
    """Signed in as the first administrator, with the password that bin/run printed."""
    context = new_context(browser)
    page = context.new_page()
    sign_in(page, stage)
    yield page
    context.close()


@pytest.fixture
def story(page: Page, stage: Product, request: pytest.FixtureRequest) -> Iterator[Story]:
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    told = Story(page, stage, ARTEFACTS, request.node.name)
    failed_before = request.session.testsfailed
    yield told
    if request.session.testsfailed > failed_before:
        told.picture("failed")
        sys.stderr.write(stage.log())
    assert "\n".join(told.complaints) == "", "the browser's console complained"
