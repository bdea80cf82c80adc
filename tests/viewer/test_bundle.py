"""The front end as one script."""

from __future__ import annotations

import pytest

from lightning_saliency.viewer import bundle
from lightning_saliency.viewer.bundle import bundle_scripts, bundle_styles


def test_modules_become_functions_in_the_order_of_their_imports(front):
    script = bundle_scripts("page.js")
    assert script == (
        "const module0 = (() => {\nconst find = 3;\n"
        "const id = (page, name) => page.getElementById(name, find);\nreturn {id};\n})();\n"
        "const module1 = (() => {\nconst {   id, } = module0;\n"
        "function find(page, name) { return id(page, name); }\nreturn {find};\n})();\n"
        "const module2 = (() => {\nconst {find: look} = module1;\n"
        'look(document, "app");\nreturn {};\n})();'
    )


def test_a_module_that_two_others_import_is_there_once(front):
    (front / "page.js").write_text(
        'import {find} from "./data.js";\nimport {id} from "./names.js";\nid(find);\n'
    )
    assert bundle_scripts("page.js").count("getElementById") == 1


@pytest.mark.parametrize(
    "line",
    [
        'import names from "./names.js";',
        'import * as names from "./names.js";',
        'import {id} from "https://example.com/names.js";',
        'import "./names.js";',
        'export * from "./names.js";',
        "export default 3;",
        "export let changing = 3;",
        "export {id};",
    ],
)
def test_what_cannot_be_bundled_is_refused(front, line):
    (front / "page.js").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"page\.js: `.*` cannot be bundled"):
        bundle_scripts("page.js")


def test_modules_that_import_each_other_are_refused(front):
    (front / "names.js").write_text('import {find} from "./page.js";\nexport const id = find;\n')
    with pytest.raises(
        ValueError, match=r"page\.js imports data\.js imports names\.js imports page\.js"
    ):
        bundle_scripts("page.js")


@pytest.mark.parametrize("text", ["</script>", "</SCRIPT >", "<!-- -->"])
def test_a_script_that_would_end_its_element_is_refused(front, text):
    (front / "names.js").write_text(f"export const id = '{text}';\n")
    with pytest.raises(ValueError, match="the front end contains"):
        bundle_scripts("page.js")


def test_the_styles(front):
    (front / "b.css").write_text("b { }\n")
    assert bundle_styles() == ".saliency { color: red }\n\nb { }\n"
    (front / "b.css").write_text("/* </style> */")
    with pytest.raises(ValueError, match="the front end contains"):
        bundle_styles()


@pytest.mark.skipif(not (bundle.STATIC / "page.js").exists(), reason="there is no front end yet")
def test_the_real_front_end_can_be_bundled():
    script = bundle_scripts("page.js")
    names = [path.name for path in bundle.STATIC.glob("*.js")]
    assert script.count("(() => {\n") <= len(names)
    assert bundle_styles()
