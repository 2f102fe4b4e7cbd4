
    !> Read the weights from their file: once, before any thread predicts; until then outputs are NaN. Sets status to 0; or
    !> to 1 where the file cannot be opened, 2 where it is too short or too long, 3 where its SHA-256 is not this network's.
    subroutine load_weights(path, status)
        character(len=*), intent(in) :: path
        integer, intent(out) :: status
        integer(int64), parameter :: expected(8) = [ &
@hash@]
        integer, parameter :: word_bytes = storage_size(1.0_wp) / 8, words = 64 / word_bytes
        integer(int64) :: hash(8), length
        integer(@bits@) :: bits
        integer(int8) :: block(64)
        integer :: unit, io, start, k, byte

        hash = [1779033703_int64, 3144134277_int64, 1013904242_int64, 2773480762_int64, &
            1359893119_int64, 2600822924_int64, 528734635_int64, 1541459225_int64]
        status = 1
        open (newunit=unit, file=path, access='stream', form='unformatted', status='old', action='read', iostat=io)
        if (io /= 0) return
        loaded = .false.
        status = 2
        do start = 0, size(weights) - 1, words
            read (unit, iostat=io) block
            if (io /= 0) exit
            call digest(hash, block)
            do k = 1, words ! little-endian, whatever this machine is
                bits = 0
                do byte = k * word_bytes, (k - 1) * word_bytes + 1, -1
                    bits = ior(ishft(bits, 8), iand(int(block(byte), @bits@), 255_@bits@))
                end do
                weights(start + k) = transfer(bits, 1.0_wp)
            end do
        end do
        if (io == 0) then
            read (unit, iostat=io) block(1)
            if (io /= 0) status = 3
        end if
        close (unit)
        if (status == 2) return
        length = size(weights, kind=int64) * word_bytes * 8
        block = 0
        block(1) = -128
        do byte = 0, 7
            k = int(iand(ishft(length, -8 * byte), 255_int64))
            block(64 - byte) = int(merge(k - 256, k, k > 127), int8)
        end do
        call digest(hash, block)
        if (any(hash /= expected)) return
        status = 0
        loaded = .true.
    end subroutine

    !> Add 64 bytes to a SHA-256 (FIPS 180-4), whose words of 32 bits are held in 64.
    pure subroutine digest(hash, block)
        integer(int64), intent(inout) :: hash(8)
        integer(int8), intent(in) :: block(64)
        integer(int64), parameter :: mask = 4294967295_int64
        integer(int64), parameter :: constants(64) = [ &
@constants@]
        integer(int64) :: w(64), s(8), first, second
        integer :: t, byte

        do t = 1, 16
            w(t) = 0
            do byte = 4 * t - 3, 4 * t
                w(t) = ior(ishft(w(t), 8), iand(int(block(byte), int64), 255_int64))
            end do
        end do
        do t = 17, 64
            first = ieor(ieor(rotated(w(t - 15), 7), rotated(w(t - 15), 18)), ishft(w(t - 15), -3))
            second = ieor(ieor(rotated(w(t - 2), 17), rotated(w(t - 2), 19)), ishft(w(t - 2), -10))
            w(t) = iand(w(t - 16) + first + w(t - 7) + second, mask)
        end do
        s = hash
        do t = 1, 64
            first = ieor(ieor(rotated(s(5), 6), rotated(s(5), 11)), rotated(s(5), 25))
            first = s(8) + first + ieor(iand(s(5), s(6)), iand(ieor(s(5), mask), s(7))) + constants(t) + w(t)
            second = ieor(ieor(rotated(s(1), 2), rotated(s(1), 13)), rotated(s(1), 22))
            second = second + ieor(ieor(iand(s(1), s(2)), iand(s(1), s(3))), iand(s(2), s(3)))
            s(2:8) = s(1:7)
            s(5) = iand(s(5) + first, mask)
            s(1) = iand(first + second, mask)
        end do
        hash = iand(hash + s, mask)
    end subroutine

    pure integer(int64) function rotated(v, by)
        integer(int64), intent(in) :: v
        integer, intent(in) :: by

        rotated = iand(ior(ishft(v, -by), ishft(v, 32 - by)), 4294967295_int64)
    end function
