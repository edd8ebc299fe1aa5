# A 64 KiB firmware that is itself the guest: qemu -bios tinybios.bin, machine pc or q35, KVM or TCG. It never
# leaves real mode, so it is up within milliseconds, also where KVM emulates ring 0 slowly. tests/guest/build.sh
# makes it with the C tool chain alone.
#
# On COM1 it prints TINY-READY once it runs, and then obeys single bytes (and echoes those that do not end it):
#   q  power off (ACPI S5)            r  reset (port 0xcf9)
#   p  panic (ISA pvpanic, 0x505)     h  hang (cli; hlt)
#   x  isa-debug-exit (0xf4)          i  ignore the power button from now on, or heed it again
#   f  say numbered lines without end e  ignore requests to eject, or heed them again
#      until another byte comes, then FLOOD-END
# By itself it prints PWRBTN and BYE, and powers off, when the ACPI power button is pressed (system_powerdown);
# and EJECT, and ejects, when a PCI device is to go (device_del; DEVICE_DELETED follows within milliseconds).
# What it writes before anybody reads the serial port is lost: start with -S, connect, then cont.
.code16
.intel_syntax noprefix
.text

.set PM, 0x600
start: cli
 cld
 mov ax,cs
 mov ds,ax
 xor ax,ax
 mov ss,ax
 mov sp,0x7000
 mov es,ax
 mov dword ptr es:[0x500],0      # flags: byte0 ignore power, byte1 ignore eject
 mov byte ptr es:[0x504],1       # machine 1=q35
 mov eax,0x80000000
 call pcird
 mov dx,0xcc0
 cmp ax,0x8086
 jne .Lstart_m
 shr eax,16
 cmp ax,0x1237
 jne .Lstart_m
 mov byte ptr es:[0x504],0
 mov dx,0xae00
.Lstart_m: mov es:[0x506],dx        # acpi pcihp base
 cmp byte ptr es:[0x504],0
 je .Lstart_pc
 mov eax,0x8000f840          # 00:1f.0 reg 40 PMBASE
 mov ebx,PM|1
 call pciwr
 mov eax,0x8000f844
 mov ebx,0x80
 call pciwr
 jmp .Lstart_pmok
.Lstart_pc: mov eax,0x80000b40      # 00:01.3 reg 40
 mov ebx,PM|1
 call pciwr
 mov eax,0x80000b80
 mov ebx,1
 call pciwr
 mov eax,0x80000b04          # command: I/O enable
 mov ebx,1
 call pciwr
.Lstart_pmok: mov dx,PM
 mov ax,0xffff
 out dx,ax                   # clear PM1_STS
 mov dx,PM+2
 mov ax,0x100                # PWRBTN_EN
 out dx,ax
 mov si,offset mready
 call puts
main: pause             # lets TCG leave cpu_exec, else RCU (and DEVICE_DELETED) starves
 mov dx,0x3fd
 in al,dx
 test al,1
 jz .Lmain_nochar
 mov dx,0x3f8
 in al,dx
 cmp al,113
 je off
 cmp al,120
 je dbg
 cmp al,114
 je reset
 cmp al,112
 je panic
 cmp al,104
 je hang
 cmp al,102
 je flood
 cmp al,105
 jne .Lmain_n1
 xor byte ptr es:[0x500],1
.Lmain_n1: cmp al,101
 jne .Lmain_n2
 xor byte ptr es:[0x501],1
.Lmain_n2: call putc
.Lmain_nochar: test byte ptr es:[0x500],1
 jnz .Lmain_nopwr
 mov dx,PM
 in ax,dx
 test ax,0x100
 jz .Lmain_nopwr
 out dx,ax
 mov si,offset mpwr
 call puts
 jmp off
.Lmain_nopwr: test byte ptr es:[0x501],1
 jnz main
 xor ecx,ecx                 # bsel 0..63: a bus for each root port, and the root itself
.Lmain_bs: mov dx,es:[0x506]
 add dx,0x10
 mov eax,ecx
 out dx,eax
 sub dx,0x0c                 # DOWN register (+4)
 in eax,dx
 or eax,eax
 jz .Lmain_nx
 cmp eax,0xffffffff
 je .Lmain_nx
 add dx,4                    # EJECT (+8)
 out dx,eax
 mov si,offset mej
 call puts
.Lmain_nx: inc cx
 cmp cx,64
 jne .Lmain_bs
 jmp main
off: mov si,offset mbye
 call puts
 mov ax,0x2000               # q35: SLP_TYP 0 = S5, SLP_EN
 mov dx,PM+4
 out dx,ax
hang: cli
 hlt
 jmp hang
dbg: mov dx,0xf4
 mov al,0x10
 out dx,al
 jmp hang
reset: mov dx,0xcf9
 mov al,6
 out dx,al
 jmp hang
panic: mov dx,0x505
 mov al,1
 out dx,al
 jmp main
flood: xor ebx,ebx             # the line's number
.Lflood_l: mov si,offset mflood
 call puts
 mov cx,8
.Lflood_d: rol ebx,4
 mov al,bl
 and al,15
 add al,48
 cmp al,57
 jbe .Lflood_p
 add al,39
.Lflood_p: call putc
 dec cx
 jnz .Lflood_d
 mov si,offset mline
 call puts
 inc ebx
 mov dx,0x3fd
 in al,dx
 test al,1
 jz .Lflood_l
 mov dx,0x3f8
 in al,dx
 mov si,offset mend
 call puts
 jmp main
pcird: mov dx,0xcf8
 out dx,eax
 mov dx,0xcfc
 in eax,dx
 ret
pciwr: mov dx,0xcf8
 out dx,eax
 mov dx,0xcfc
 mov eax,ebx
 out dx,eax
 ret
puts: .byte 0x2e
 lodsb
 or al,al
 jz .Lputs_r
 call putc
 jmp puts
.Lputs_r: ret
putc: mov ah,al
 mov dx,0x3fd
.Lputc_w: in al,dx
 test al,0x20
 jz .Lputc_w
 mov dx,0x3f8
 mov al,ah
 out dx,al
 ret
mflood: .asciz "FLOOD "
mline: .asciz " a guest that says more than anybody wants to read\r\n"
mend: .asciz "FLOOD-END\r\n"
mready: .asciz "TINY-READY\r\n"
mpwr: .asciz "PWRBTN\r\n"
mej: .asciz "EJECT\r\n"
mbye: .asciz "BYE\r\n"
.org 0xfff0, 0xf4
 .byte 0xea
 .word start, 0xf000
.org 0x10000, 0
