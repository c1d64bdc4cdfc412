#!/bin/sh
# Starts likeness where the libraries of CUDA 13 and cuDNN 9 lie: in the folders of LIKENESS_CUDA_LIBS (separated by
# colons), in the site-packages of a Python (those that PyTorch for CUDA 13 brings), or in the system's own folders.
set -u
here=$(dirname "$(readlink -f "$0")")
needed="@NEEDED@"

# Every folder that may hold them, one a line; the first that does is taken.
folders() {
    printf '%s\n' "${LIKENESS_CUDA_LIBS:-}:${LD_LIBRARY_PATH:-}" | tr ':' '\n'
    {
        for python in "${LIKENESS_PYTHON:-}" python3 /opt/conda/bin/python3 /opt/venv/bin/python3; do
            [ -n "$python" ] && "$python" -c 'import sys; print("\n".join(sys.path))' 2>/dev/null
        done
        printf '%s\n' /usr/local/lib/python3*/site-packages /usr/local/lib/python3*/dist-packages
    } | while IFS= read -r site; do
        [ -d "$site/nvidia" ] && printf '%s\n' "$site"/nvidia/*/lib
    done
    printf '%s\n' /usr/local/cuda-13*/lib64 /usr/local/cuda/lib64 /usr/local/nvidia/lib64 \
        /usr/lib/x86_64-linux-gnu /usr/lib64 /usr/lib/wsl/lib
}

all=$(folders)
path=
missing=
for library in $needed; do
    found=$(printf '%s\n' "$all" | while IFS= read -r folder; do
        if [ -n "$folder" ] && [ -e "$folder/$library" ]; then
            printf '%s\n' "$folder"
            break
        fi
    done)
    if [ -z "$found" ]; then
        missing="$missing $library"
    else
        case ":$path:" in
        *":$found:"*) ;;
        *) path="$path${path:+:}$found" ;;
        esac
    fi
done
if [ -n "$missing" ]; then
    echo "likeness: missing:$missing; libcuda comes with the NVIDIA driver (580 or later), the others with PyTorch for" \
        "CUDA 13: put that Python into LIKENESS_PYTHON, or their folders into LIKENESS_CUDA_LIBS" >&2
    exit 1
fi
# Products of f32 stay f32: cuDNN and cuBLAS may otherwise round their factors to TF32.
export NVIDIA_TF32_OVERRIDE="${NVIDIA_TF32_OVERRIDE:-0}"
LD_LIBRARY_PATH=$path${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$here/likeness-bin" "$@"
