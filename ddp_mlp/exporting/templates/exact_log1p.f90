
    !> log(1 + x), for x from 0 to 1.
    elemental real(wp) function exact_log1p(x)
        real(wp), intent(in) :: x
        real(wp), parameter :: c(*) = [ &
@LOG@]
        real(wp) :: total, part, error, m, f, more, s, square, half, rest, whole, high
        integer :: k

        exact_log1p = x
        if (.not. x > 0) return
        total = 1 + x
        part = total - 1
        error = (1 - (total - part)) + (x - part)
        k = exponent(total)
        m = fraction(total)
        if (m < @SQRT_HALF@) then
            m = 2 * m
            k = k - 1
        end if
        f = m - 1
        more = error / total
        if (k == 0) then
            f = x
            more = 0
        end if
        s = f / (2 + f)
        square = times(s, s)
        half = times(0.5_wp * f, f)
        rest = half - times(s, half + times(square, polynomial(c, square)))
        whole = times(real(k, wp), @LN2_HIGH@)
        high = whole + f
        exact_log1p = high + ((((whole - high) + f) - rest) + (times(real(k, wp), @LN2_LOW@) + more))
    end function
