#compdef qmpctl
# Completion of qmpctl for zsh; printed by "qmpctl completion zsh".
_qmpctl() {
	local -a whole begun
	local line files="" folders=""
	for line in "${(@f)$("$words[1]" __complete "${(@)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null)}"; do
		line=${line%%$'\t'*}
		case $line in
		"") ;;
		:path) files=1 ;;
		:dir) folders=1 ;;
		*[=.,]) begun+=("$line") ;;
		*) whole+=("$line") ;;
		esac
	done
	(( $#whole )) && compadd -- "${(@)whole}"
	(( $#begun )) && compadd -S '' -- "${(@)begun}"
	if [[ -n $files$folders ]]; then
		compset -P '*[=,]'
		if [[ -n $files ]]; then _files; else _files -/; fi
	fi
}
if [[ $funcstack[1] == _qmpctl ]]; then
	_qmpctl "$@"
else
	compdef _qmpctl qmpctl
fi
