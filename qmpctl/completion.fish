# Completion of qmpctl for fish; printed by "qmpctl completion fish".
function __qmpctl_complete
	set -l words (commandline -opc)
	set -l current (commandline -ct)
	for line in ($words[1] __complete $words[2..-1] "$current" 2>/dev/null)
		switch $line
			case ':path'
				__fish_complete_path (string replace -r '^.*[=,]' '' -- "$current")
			case ':dir'
				__fish_complete_directories (string replace -r '^.*[=,]' '' -- "$current")
			case '*'
				printf '%s\n' $line
		end
	end
end
complete -c qmpctl -f -a '(__qmpctl_complete)'
