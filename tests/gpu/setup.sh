# Sourced on a GPU machine that has numpy, cuda-bindings and jinja2, but no warploom: makes `import warploom` work.
# Wheels that the machine lacks (msgspec, tokenizers) are taken from .whl/.
root=$(pwd)
site=$(mktemp -d)
if compgen -G ".whl/*.whl" > /dev/null; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" .whl/*.whl || return 1
fi
mkdir "$site/warploom"
for file in "$root"/warploom/*.py; do ln -s "$file" "$site/warploom/"; done
for room in ir frontend passes codegen runtime tools; do ln -s "$root/$room" "$site/warploom/$room"; done
export PYTHONPATH="$site:$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export PYTHONSAFEPATH=1  # else `python -m` looks into the working directory first, whose warploom/ has no rooms
