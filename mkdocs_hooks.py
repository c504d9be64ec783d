"""What the site has besides the pages of docs/: the interface from docstrings, root pages, linked sources."""

import ast
import json
import re
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent
# Pages outside docs/ -> their address in the site.
ROOT_PAGES = {"README.md": "readme.md", "CONTRIBUTING.md": "contributing.md"}
PACKAGES = [
    f"{path.parts[-3]}.{path.parts[-2]}"
    for top in ("operators", "fedrecon")
    for path in sorted((ROOT / top).glob("*/__init__.py"))
]
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def source(module: str) -> ast.Module:
    """Syntax of a module or package."""
    path = ROOT / module.replace(".", "/")
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())


def has_docstring(module: str, name: str) -> bool:
    """Whether a name of a module is a function or class, there or where the module has it from."""
    for node in source(module).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return True
        if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
            (found,) = (a.name for a in node.names if (a.asname or a.name) == name)
            return (
                bool(node.module)
                and node.module.startswith(module.split(".")[0])
                and has_docstring(node.module, found)
            )
    return False


def public_names(package: str) -> list[str]:
    """Names that a package offers, without modules."""
    folder = ROOT / package.replace(".", "/")
    (names,) = (
        ast.literal_eval(node.value)
        for node in source(package).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return [name for name in names if name not in {path.stem for path in folder.iterdir()}]


def interface_page(package: str) -> str:
    """Markdown of a page of a package's public names: functions and classes, then what else there is."""
    about, names = ast.get_docstring(source(package)) or "", public_names(package)
    described = [name for name in names if has_docstring(package, name)]
    others = ", ".join(f"`{name}`" for name in names if name not in described)
    parts = [f"# {package}", about, *(f"::: {package}.{name}" for name in described)]
    return "\n\n".join([*parts, *([f"## Constants and types\n\n{others}"] if others else [])]) + "\n"


def site_address(page: str, link: str) -> str:
    """Address in the site of a relative link of a page, `page` being its path in the repository."""
    target = (ROOT / page).parent.joinpath(link).resolve()
    path = target.relative_to(ROOT).as_posix()
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    if path.startswith("docs/") and target.is_file():
        return path.removeprefix("docs/")
    return f"source/{path}.txt"


def in_site(page: str, text: str) -> str:
    """Markdown of a page with links to files outside docs/ led to their copies in the site."""
    return LINK.sub(lambda m: f"]({site_address(page, m[1])}{m[2] or ''})", text)


def notebook_page(path: Path) -> str:
    """Markdown of the cells of a notebook, and a link to its file."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join([*parts, f"Download: [{path.name}]({path.name})"]) + "\n"


def source_text(path: Path) -> str:
    """Content of a file, or names of the files of a folder."""
    if path.is_dir():
        return "\n".join(sorted(entry.name for entry in path.iterdir())) + "\n"
    return path.read_text()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the pages of the interface to the navigation."""
    if not any("Interface" in item for item in config.nav):
        pages = [{package: f"interface/{package}.md"} for package in PACKAGES]
        config.nav.insert(-1, {"Interface": pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here, and files that pages link to."""
    made = {f"interface/{package}.md": interface_page(package) for package in PACKAGES}
    for path in Path(config.docs_dir).glob("notebooks/*.ipynb"):
        made[f"notebooks/{path.stem}.md"] = notebook_page(path)
    pages = {f"docs/{path.name}": path for path in Path(config.docs_dir).glob("*.md")}
    pages |= {name: ROOT / name for name in ROOT_PAGES}
    for name, path in pages.items():
        text = path.read_text()
        if name in ROOT_PAGES:
            made[ROOT_PAGES[name]] = in_site(name, text)
        for link, _ in LINK.findall(text):
            if (address := site_address(name, link)).startswith("source/"):
                made[address] = source_text((ROOT / name).parent / link)
    for address, text in made.items():
        files.append(File.generated(config, address, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links of the pages of docs/ to where their files are in the site."""
    if page.file.generated_by:
        return markdown
    return in_site(f"docs/{page.file.src_uri}", markdown)


class Examples(griffe.Extension):
    """Docstrings say Example where griffe knows sections named Examples."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Renames the section of an object's docstring."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
