# Prints facts and problems of this system, one a line. It leaves no file.
echo "clock $(date +%s)"
echo "free $(df -Pk "$HOME" | awk 'NR == 2 { print $4 }') $HOME"
for place in "${TMPDIR:-/tmp}" "$HOME"; do
    if file=$(mktemp "$place/.gpuvm-XXXXXX" 2>/dev/null); then
        if printf '#!/bin/sh\nexit 0\n' 2>/dev/null >"$file" && chmod 700 "$file"; then
            "$file" 2>/dev/null || echo "noexec $place"
        fi
        rm -f "$file"
    else
        echo "unwritable $place"
    fi
done
sudo -n true 2>&1 </dev/null | grep -q 'must have a tty' && echo requiretty
true
