
    !> Round each row of a (rows, n) to whole multiples of a unit of its own: to the bits with which its products are exact.
    pure subroutine settle(n, rows, a, bits)
        integer, intent(in) :: n, rows, bits
        real(wp), intent(inout) :: a(rows, n)
        real(wp) :: largest, magic
        integer :: r, e

        do r = 1, rows
            largest = maxval(abs(a(r, :)))
            e = exponent(largest)
            if (largest <= 0) e = bits - @UNIT_LIMIT@
            magic = scale(@ROUNDING@, max(e, bits - @UNIT_LIMIT@) - bits)
            if (.not. largest < @HUGE@ .or. any(a(r, :) /= a(r, :))) magic = ieee_value(magic, ieee_quiet_nan)
            a(r, :) = (a(r, :) + magic) - magic
        end do
    end subroutine

    !> A number rounded to the type of the parameters, whatever a compiler thinks of that.
    elemental real(real64) function narrowed(v)
        real(wp), intent(in) :: v
        real(real32), volatile :: narrow

        narrow = real(v, real32)
        narrowed = real(narrow, real64)
    end function
@functions@
