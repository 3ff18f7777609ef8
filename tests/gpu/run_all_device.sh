# Checks and times the device with artifacts on a GPU machine: `. tests/gpu/run_all_device.sh OUT ARTIFACT...`
. tests/gpu/setup.sh
out=$1
shift
for artifact in "$@"; do
    name=$(basename "$artifact")
    timeout 100 python3 tests/gpu/run_device.py "$artifact" --out "$out/device-$name.json"
    echo "run_device $name: exit status $?"
    timeout 100 python3 -P -m warploom.tools.cli bench step "$artifact" > "$out/step-$name.txt"
    echo "bench step $name: exit status $?"
    head -9 "$out/step-$name.txt"
done
