"""Extra packages to learn from, through their ordinary clients."""

import os
import subprocess
import sys

# Well-known packages under permissive licences, beside the standard library,
# the installed site-packages and the crates of Cargo.lock.
PYPI = """
django flask werkzeug requests urllib3 aiohttp tornado fastapi starlette attrs black mypy sqlalchemy
celery scrapy twisted trio pandas scikit-learn scipy matplotlib xarray dask distributed pytest hypothesis
ipython nbconvert bokeh sphinx boto3 keras jax einops accelerate textual prompt-toolkit pyparsing
more-itertools sortedcontainers websockets gunicorn uvicorn coverage poetry-core virtualenv peewee redis
beautifulsoup4 statsmodels
""".split()

CRATES = """
tokio hyper axum reqwest clap rand image ndarray nalgebra petgraph rayon regex chrono time url rustls
actix-web diesel tonic quinn naga bevy_ecs winit candle-core polars-core arrow-array parquet
datafusion-expr gix-diff gix-pack ignore grep-searcher csv nom winnow toml_edit ratatui crossterm
alacritty_terminal syntect logos pest chumsky boa_engine rhai cranelift-codegen wasmparser object gimli
num-bigint rustfft glam lyon_tessellation tiny-skia ttf-parser tantivy redb html5ever quick-xml
minijinja handlebars comrak pulldown-cmark zip proptest insta criterion rustyline egui
""".split()

NPM = """
three rxjs zod eslint webpack svelte undici fastify jquery mobx redux axios express koa mocha yargs async
preact leaflet lodash d3-array d3-shape d3-geo d3-hierarchy mathjs typeorm socket.io handlebars marked
markdown-it luxon winston stylelint jsdom postcss matter-js
""".split()


def fetch(args):
    """Download the extra packages through their ordinary clients; failures only cost that package."""
    wheels = args.work / "fetch/pypi"
    for name in PYPI:
        target = wheels / name
        if not target.exists():
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile",
                       "--only-binary", ":all:", "--target", str(target), name]
            if subprocess.run(command).returncode:
                print(f"skipped {name}")

    crate = args.work / "fetch/crates"
    (crate / "src").mkdir(parents=True, exist_ok=True)
    (crate / "src/lib.rs").touch()
    manifest = '[package]\nname = "sources"\nversion = "0.0.0"\nedition = "2024"\n\n[workspace]\n\n[dependencies]\n'
    (crate / "Cargo.toml").write_text(manifest + "".join(f'{name} = "*"\n' for name in CRATES))
    subprocess.run(["cargo", "fetch", "-q", "--manifest-path", crate / "Cargo.toml"], check=True,
                   env=os.environ | {"CARGO_HOME": str((args.work / "fetch/cargo").resolve())})

    node = args.work / "fetch/npm"
    node.mkdir(parents=True, exist_ok=True)
    (node / "package.json").write_text('{"name": "sources", "version": "0.0.0", "private": true}')
    subprocess.run(["npm", "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund", *NPM],
                   check=True, cwd=node)
