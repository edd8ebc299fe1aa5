# Completion of qmpctl for bash; printed by "qmpctl completion bash".
# bash splits words at = and : too; what qmpctl is asked about are whole words, and what bash is given is the end of one.
_qmpctl() {
	local rest=${COMP_LINE:0:COMP_POINT} words=() word breaks="" part stem line i
	for ((i = 0; i <= COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		if [[ $i -eq 0 || $rest == [[:space:]]* ]]; then
			rest=${rest#"${rest%%[![:space:]]*}"}
			words+=("")
		fi
		[[ $rest == "$word"* ]] || word=$rest
		words[-1]+=$word
		rest=${rest#"$word"}
	done
	[[ $COMP_WORDBREAKS == *=* ]] && breaks+="="
	[[ $COMP_WORDBREAKS == *:* ]] && breaks+=":"
	part=${words[-1]}
	[[ -n $breaks ]] && part=${part##*[$breaks]}
	stem=${words[-1]%"$part"}
	COMPREPLY=()
	while IFS= read -r line; do
		line=${line%%$'\t'*}
		case $line in
		:path)
			compopt -o filenames
			mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -- "$part") ;;
		:dir)
			compopt -o filenames
			mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -d -- "$part") ;;
		*[=.,])
			compopt -o nospace
			COMPREPLY+=("${line#"$stem"}") ;;
		*)
			COMPREPLY+=("${line#"$stem"}") ;;
		esac
	done < <("$1" __complete "${words[@]:1}" 2>/dev/null)
}
complete -F _qmpctl qmpctl
